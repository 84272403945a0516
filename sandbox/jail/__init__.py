"""What holds a jailed process: nsjail's arguments, cgroups, uids, and the root folder it sees."""
