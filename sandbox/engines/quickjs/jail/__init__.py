"""The part of QuickJS's cell that runs in the jail. The standard library only."""
