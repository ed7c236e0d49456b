"""Every error that llmrun reports to its user; anything else that escapes is a bug of ours.

    LlmrunError                 exit code 1
     |- UsageError              2   a bad option or value
     |- ModelFileError          3   a file that cannot be read as a model
     |   |- MissingFile             not there, or not a file we may read
     |   |   |- UnknownModel            no model of that name is here
     |   |- NotGGUF                 some other kind of file, or a GGUF version we do not know
     |   |- TruncatedFile           ends before what its header promises
     |   |- CorruptFile             sizes, offsets or names that cannot be right
     |- UnsupportedModel        4   a sound file that this version cannot run
     |   |- UnknownArchitecture
     |   |- UnknownTensorType
     |   |- UnknownPreTokenizer
     |   |- MissingTensor
     |   |- MissingMetadata
     |- DownloadError           5   a model that could not be fetched
     |   |- ChecksumMismatch
     |- ContextError            6
     |   |- ContextTooLong          more context asked for than the model was trained on
     |   |- PromptTooLong           a prompt that does not fit the context
     |- TemplateError           7   the model's chat template raised or does not compile
     |- InputError              8   input that is not text, such as invalid UTF-8
     |- OutOfMemory             9
     |- KernelError            10   kernels that do not compile or a processor that cannot run them
     |- SessionError           11   conversations that cannot be found, opened, read or written
     |   |- UnknownSession          no session of that name or id, or several
     |   |- SessionNameTaken        another session has the name
     |   |- SessionBusy             another process has the session open
     |   |- DiskFull           12   no room on the disk for what was said
     |- ServerError            13   a server that cannot be started, reached or asked
         |- QueueFull               too many requests wait already
         |- EngineClosed            the model is being unloaded
         |- Stopping                the server is shutting down
         |- TimedOut                the request took longer than the server allows
         |- AddressTaken            another program listens there, or the system does not allow to
         |- NoServer                none answers there

The message is one line that says what is wrong and what to do about it. The command line prints it and exits with
`exit_code`; an interrupt (Ctrl-C) exits with `EXIT_INTERRUPTED`.
"""

EXIT_INTERRUPTED = 130


class LlmrunError(Exception):
    """The root: catch this to catch everything llmrun reports on purpose."""

    exit_code: int = 1


class UsageError(LlmrunError):
    """An option or argument whose value makes no sense."""

    exit_code = 2


class ModelFileError(LlmrunError):
    """A path that does not lead to a whole, sound GGUF file."""

    exit_code = 3


class MissingFile(ModelFileError):
    """The file is not there, is not a regular file, or may not be read."""


class UnknownModel(MissingFile):
    """No model of that name is installed or was given to the server."""


class NotGGUF(ModelFileError):
    """The file is not GGUF, or a version or byte order of it that we do not read."""


class TruncatedFile(ModelFileError):
    """The file ends before everything its header promises."""


class CorruptFile(ModelFileError):
    """The file holds sizes, offsets, counts or names that cannot be right."""


class UnsupportedModel(LlmrunError):
    """The file is sound, but this version cannot run the model in it."""

    exit_code = 4


class UnknownArchitecture(UnsupportedModel):
    """`general.architecture` names a model family that is not implemented."""


class UnknownTensorType(UnsupportedModel):
    """A tensor is stored in a format that is not implemented."""


class UnknownPreTokenizer(UnsupportedModel):
    """`tokenizer.ggml.pre` names a way of splitting text that is not implemented."""


class MissingTensor(UnsupportedModel):
    """A tensor that the architecture needs is not in the file."""


class MissingMetadata(UnsupportedModel):
    """A metadata key that the architecture or the tokenizer needs is not in the file."""


class DownloadError(LlmrunError):
    """A model could not be fetched."""

    exit_code = 5


class ChecksumMismatch(DownloadError):
    """What was fetched is not what the registry promises; the file is not kept."""


class ContextError(LlmrunError):
    """What was asked for does not fit the context."""

    exit_code = 6


class ContextTooLong(ContextError):
    """More context was asked for than the model was trained on."""


class PromptTooLong(ContextError):
    """The prompt has more tokens than the context."""

    def __init__(self, message: str, n_prompt: int | None = None, n_ctx: int | None = None) -> None:
        """Both numbers are tokens: what the prompt has, and what the context holds."""
        super().__init__(message)
        self.n_prompt, self.n_ctx = n_prompt, n_ctx


class TemplateError(LlmrunError):
    """The chat template of the model does not compile, or raised."""

    exit_code = 7


class InputError(LlmrunError):
    """Input that is not text, such as invalid UTF-8 on standard input."""

    exit_code = 8


class OutOfMemory(LlmrunError):
    """The model, its cache or its work space does not fit the memory of this machine."""

    exit_code = 9


class KernelError(LlmrunError):
    """The kernels do not compile, or the processor cannot run them."""

    exit_code = 10


class SessionError(LlmrunError):
    """The conversations on disk cannot be read or written."""

    exit_code = 11


class UnknownSession(SessionError):
    """No session has that name or id, or the beginning of one that was given fits several."""


class SessionNameTaken(SessionError):
    """The name belongs to another session."""


class SessionBusy(SessionError):
    """Another process has the session open."""


class DiskFull(SessionError):
    """There is no room on the disk for what was said; it is kept in memory."""

    exit_code = 12


class ServerError(LlmrunError):
    """A server cannot be started, reached, or asked for something."""

    exit_code = 13


class QueueFull(ServerError):
    """Too many requests wait already."""


class EngineClosed(ServerError):
    """The model is being unloaded."""


class Stopping(ServerError):
    """The server is shutting down."""


class TimedOut(ServerError):
    """The request took longer than the server allows."""


class AddressTaken(ServerError):
    """Another program listens at the address, or the system does not allow to."""


class NoServer(ServerError):
    """No server answers at the address."""
