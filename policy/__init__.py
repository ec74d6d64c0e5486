"""Rules to verdicts: no I/O but reading policy files, no clock."""
