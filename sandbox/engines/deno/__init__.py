"""The Deno engine: the runner, its seccomp policy, how its stacks are read."""
