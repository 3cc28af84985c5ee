"""The two things that can be wrong with what a user brings: the input as a whole, or one image of it."""


class InputError(ValueError):
    "Wrong input or usage. The message names the thing and the remedy in one line; the commands exit with code 2."

    def __str__(self) -> str:
        told = super().__str__()  # it may name a cell of a table that is as long as a book
        return told if len(told) <= 2000 else f"{told[:1500]} ... {told[-400:]}"


class BadImage(ValueError):
    "One image file that cannot be used, and why. It is skipped and named, never met in the middle of an epoch."

    def __init__(
        self,
        path,  # the file
        reason: str,  # a few plain words, e.g. "truncated"
    ):
        super().__init__(path, reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TrainingError(RuntimeError):
    "Training cannot go on, and why. The commands exit with code 1."

    def __str__(self) -> str:
        # fastai prepends where it happened, on a line of its own; people need the last line.
        return str(self.args[0]).strip().splitlines()[-1].strip()
