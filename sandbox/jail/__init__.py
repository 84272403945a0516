"""The jail around a process: nsjail's arguments, cgroups, uids, and the root folder."""
