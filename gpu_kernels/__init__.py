"""The operations of a model on a torch device."""
