"""How a build that cannot go on ends."""


class BuildError(SystemExit):
    """Ends the build with a message: what is wrong, and what the user can do.  As a SystemExit it has no traceback."""

    def __init__(self, wrong: str, advice: str) -> None:
        super().__init__(f"\npromptlog cannot be built: {wrong}\n  {advice}\n")
