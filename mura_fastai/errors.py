"""The two things that can be wrong with what a user brings: the input as a whole, or one image of it."""

import errno


class InputError(ValueError):
    "Wrong input or usage. The message names the thing and the remedy in one line; the commands exit with code 2."

    def __str__(self) -> str:
        told = super().__str__()  # it may name a cell of a table that is as long as a book
        return told if len(told) <= 2000 else f"{told[:1500]} ... {told[-400:]}"


class NoImages(InputError):
    "Rows of which there are none, or whose files cannot be read: whoever can do without them may go on."


class NoData(NoImages):
    "Nearly all images of a run lie elsewhere than it says: they were moved, or it came from another machine."


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


class NoMemory(MemoryError):
    "The memory was full while one image file was decoded. It may well be fine, so it is not left out as a bad one is."

    def __init__(
        self,
        path,  # the file
    ):
        super().__init__(path)
        self.path = str(path)

    def __str__(self) -> str:
        remedy = "lower --workers where the command has it, or end other programs"
        return f"{self.path}: the memory is full, and nothing is known against the file; {remedy}"


class TrainingError(RuntimeError):
    "Training cannot go on, and why. The commands exit with code 1."

    def __str__(self) -> str:
        # fastai prepends where it happened, on a line of its own; people need the last line.
        return str(self.args[0]).strip().splitlines()[-1].strip()


def full_memory(
    e: BaseException,  # that something raised
) -> str | None:  # why it could not go on, and what to do; None where it is something else
    "What an error says where memory was at its end: PyTorch, NumPy and Python each have their own ways."
    told, smaller = str(e), "lower --bs or --size"
    if isinstance(e, NoMemory):
        return told
    if type(e).__name__ == "OutOfMemoryError":  # PyTorch's, which is not imported for its name alone
        return f"the GPU's memory is full; {smaller}"
    no_room = isinstance(e, OSError) and e.errno == errno.ENOMEM
    # "not enough memory" on other systems
    no_room |= isinstance(e, RuntimeError) and ("DefaultCPUAllocator" in told or "not enough memory: you tried" in told)
    if no_room or isinstance(e, MemoryError):
        return f"the memory is full; {smaller}, or end other programs"
    if isinstance(e, RuntimeError) and told == "can't start new thread":
        return f"no thread can be started, for want of memory or by a limit; lower --workers, or {smaller}"
    return None
