"""promptlogctl: the command line."""

from promptlogctl.cli import cli


def main() -> None:
    """Run the command line."""
    cli(prog_name="promptlogctl")


if __name__ == "__main__":
    main()
