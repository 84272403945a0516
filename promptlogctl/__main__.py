"""promptlogctl: the command line."""

from promptlogctl import startup


def main() -> None:
    """Run the command line."""
    startup.open_closed_streams()
    startup.end_at_interrupt()
    from promptlogctl.cli import cli  # takes most of a short command's time, and Ctrl-C may come meanwhile

    cli(prog_name="promptlogctl")


if __name__ == "__main__":
    main()
