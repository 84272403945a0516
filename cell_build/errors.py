"""The error that ends a build."""


class BuildError(SystemExit):
    """Ends the build with a message that names the fault and the remedy. A SystemExit prints no traceback."""

    def __init__(self, wrong: str, advice: str) -> None:
        super().__init__(f"\npromptlog cannot be built: {wrong}\n  {advice}\n")
