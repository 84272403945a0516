"""The QuickJS engine: the zygote, its prelude, its two seccomp policies."""
