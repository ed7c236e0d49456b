"""Strings that tell tokenizers apart: scripts, spaces, code, special tokens, and what only machines write."""

import random

WORDS = [
    "",
    "a",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "Once upon a time, in a small village by the sea, there lived an old clockmaker.",
    " leading space",
    "trailing space ",
    "MiXeD cAsE and ALLCAPS and CamelCaseIdentifier",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "state-of-the-art, e-mail; semi:colon... ellipsis… dash— en–dash",
    "naïve café résumé Ångström façade São Paulo",
    "“Curly quotes” and ‘single ones’ and «guillemets»",
    "x" * 500,
    "ab" * 700,
    "!" * 300,
]
CONTRACTIONS = [
    "I'm you're he's we've they'll I'd don't",
    "I'M YOU'RE HE'S WE'VE THEY'LL I'D DON'T",
    "I'lL 'Re 'vE 'S 'x ''s 's' '",
    "rock 'n' roll, the '90s, o'clock, y'all'd've",
    "it’s typographic, isn’t it",
    "'\u017f and \u212a are letters that fold to s and k",
]
DIGITS = [
    "0",
    "12",
    "123",
    "1234",
    "1234567890" * 3,
    "3.14159 -2.5e-10 1,000,000 0x1F 0b1010 1_000",
    "2024-02-29T23:59:59+00:00",
    "+1 (555) 123-4567 10.0.0.1:8080",
    "a1b2c3 4d5e6f x86_64 H2O v1.2.3-rc4",
    "½ ¼ ² ³ Ⅷ ① ٣٤٥ १२३ 𝟘𝟙𝟚 ๑๒๓",
]
SPACES = [
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\n\n\n\n\n",
    "\t",
    "\t\t\t\t",
    "\r\n",
    "\r\n\r\n",
    "a\rb\r\rc",
    "a b  c   d    e     f",
    " \n \n  \n",
    "\n  indented\n\tand tabbed\n",
    "ends in newline\n",
    "ends in spaces    ",
    "spaces   \n   around   \n\n   newlines",
    "no\u00a0break em\u2003space thin\u2009space ideographic\u3000space",
    "next\u0085line line\u2028separator paragraph\u2029separator",
    "vertical\x0btab form\x0cfeed",
    "zero\u200bwidth word\u2060joiner \ufeffbyte order mark \u180evowel separator",
    " " * 40,
    " " * 1000 + "x",
    "\t \t \n\t \n",
]
CODE = [
    "def f(x: int) -> int:\n    return x ** 2  # squared\n",
    "for (int i = 0; i < n; ++i) {\n\ta[i] += b[i] * c;\n}\n",
    '<html><body class="a b"><p>Hi &amp; bye</p><br/></body></html>',
    "<table><tr><td>1</td><td>2</td></tr></table>",
    "SELECT * FROM t WHERE a = 'it''s' AND b <> 0;",
    '{"key": [1, 2.5, null, true], "nested": {"a": "\\u00e9\\n"}}',
    'fn main() { println!("{:?}", vec![1, 2, 3]); }',
    "#!/bin/sh\nset -eu\ngrep -rn 'a b' . | awk '{print $1}' > /dev/null 2>&1\n",
    "https://example.org/a/b?c=d&e=%20f#g user@example.com",
    "C:\\Users\\name\\file.txt ~/a_b-c/../d",
    "$x^2 + \\frac{1}{2} \\le \\sqrt{y}$",
    "a=b;c!=d,e==f;g+=h;i->j;k::l;m=>n;o|p||q&&r",
    "////////// ---------- ========== ********** __________ ##########",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n",
    "```python\nprint('hi')\n```\n",
    "diff --git a/x b/x\n@@ -1,2 +1,3 @@\n-old\n+new\n",
    "if(a){b}else{c}\n\n\n\nreturn(d);",
    ">▁</ > </",
]
SCRIPTS = [
    "你好，世界！今天天气很好。",
    "日本語のテキスト、カタカナとひらがな。",
    "안녕하세요 세계, 한국어 문장입니다.",
    "สวัสดีชาวโลก ภาษาไทยไม่เว้นวรรค",
    "مرحبا بالعالم، هذا نص عربي.",
    "שלום עולם, טקסט בעברית־עם מקף",
    "नमस्ते दुनिया, यह हिंदी है।",
    "Привет, мир! Это русский текст.",
    "Γειά σου Κόσμε, ελληνικά κείμενα.",
    "Xin chào thế giới, tiếng Việt có dấu.",
    "வணக்கம் உலகம் తెలుగు ಕನ್ನಡ മലയാളം",
    "გამარჯობა Հայերեն ትግርኛ မြန်မာ ខ្មែរ ລາວ",
    "𐍈 𐎠 𓀀 𒀀 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝓢𝓬𝓻𝓲𝓹𝓽",
    "漢" * 200,
    "ﬁ ﬂ ǅ ǈ ª º ſ K Å Ω",
    "a中b文c 1中2文3",
]
MARKS = [
    "e\u0301 e\u0300 a\u0308 o\u0302\u0323 n\u0303",
    "Z\u0351\u036b\u0343a\u0327\u0322l\u0334g\u0335o\u0336",
    "\u0301 alone and \u0301\u0302\u0303",
    "가 \u1100\u1161 각",
    "क्षत्रिय र्‍य",
    "ا\u064e\u0651ل\u0652",
    "text\ufe0e emoji\ufe0f keycap 1\ufe0f\u20e3",
]
EMOJI = [
    "😀",
    "😀😃😄😁",
    "👨‍👩‍👧‍👦 family",
    "🏳️‍🌈 🏴‍☠️ 🇩🇪🇫🇷🇯🇵",
    "👍🏽 👩🏿‍🚀 🧑‍💻",
    "❤️ ☺️ ✔ ★ → ∑ ∞ ≠ ½ © ™",
    "a😀b 1😀2 .😀!",
    "🫠🫨🪿 newer ones",
    "\u200d\u200d lone joiners \ufe0f",
]
SYMBOLS = [
    "€100 £5 ¥1000 ₿ ₹ ¢",
    "† ‡ • ‣ § ¶ ° ± × ÷",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋",
    "┌─┬─┐│ │ │└─┴─┘ ▁▂▃▄▅▆▇█",
    "▁ ▁▁ a▁b ▁a ▁▁▁▁a",
    "Ġ Ċ ĉ Ġthe Ċ Ċ Ā ÿ Ń",
    "<0x0A> <0x00> <0xFF> <0xZZ>",
    "‿ ⁀ _ ﹏ ＿ ．，！？",
]
CONTROLS = [
    "\x00",
    "a\x00b\x00\x00c",
    "\x01\x02\x03\x1b[31mred\x1b[0m",
    "\x1c\x1d\x1e\x1f separators",
    "\x7f\x80\x81\x9f\xad",
    "\ufffd replacement \ufffe\uffff nonchars",
    "\ue000\uf8ff private \U0010ffff last",
    "\u202eright to left\u202c \u2066isolate\u2069",
    "\x08backspace\x07bell",
]
SPECIALS = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<bos>twice<bos><bos><eos>",
    "<s>[INST] Hi [/INST] there",
    "<|endoftext|>a<|endoftext|>",
    " <|im_start|> spaced <|im_end|> ",
    "<|im_start|<|im_end|>|>",
    "<|im_end|><|im_end|>\n\n<|im_end|>",
    "<|im_|>, <im_start>, <|im start|>, <|IM_START|>",
    "<repo_name>x<file_sep>y<issue_start>",
    "<unused0><unused99><unused1234>",
    "<pad><unk><mask>",
    "[multimodal]<start_of_image><end_of_image>",
    "don't<|im_end|>'s <end_of_turn>'ll",
    "12<|im_end|>345<end_of_turn>678",
]


def mixed(count: int) -> list[str]:
    """Concatenate pieces of everything above at random, the same way every time."""
    pieces = (piece for group in GROUPS for string in group for piece in string.split(" "))
    short = [" ", "  ", "\n", "'s", "1", *(piece for piece in pieces if len(piece) < 40)]
    choice = random.Random(20)
    return ["".join(choice.choices(short, k=choice.randint(2, 25))) for _ in range(count)]


GROUPS = [WORDS, CONTRACTIONS, DIGITS, SPACES, CODE, SCRIPTS, MARKS, EMOJI, SYMBOLS, CONTROLS, SPECIALS]
LONG = [
    " ".join(word for group in GROUPS for string in group for word in string.split(" ")[:8]),
    "\n".join(string for group in GROUPS for string in group),
    " ".join(mixed(40)),
]
STRINGS = [*(string for group in GROUPS for string in group), *LONG, *mixed(200)]
