"""Memory that does not suffice: how it shows, and what is said then."""

# What a RuntimeError says: of the CPU's allocator, of C++, of MPS and CUDA, and of CUDA's libraries.
_WORDS = ("can't allocate memory", "std::bad_alloc", "out of memory", "_STATUS_ALLOC_FAILED")
_advice: list[str] = []  # of this process, which has one run at a time


def advise(text: str) -> None:
    """What a run could do with less: `use micro_batches=4`. Said beside the error, or where a rank is killed."""
    _advice[:] = [text]


def forget() -> None:
    """Takes the advice back: another run begins."""
    _advice.clear()


def with_advice(message: str) -> str:
    return "; ".join([message, *_advice])


def shows_in(error: BaseException) -> bool:
    """Whether the memory of the device or the machine did not suffice. Torch's classes are known by name."""
    return (
        isinstance(error, MemoryError)
        or any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__)
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS))
    )
