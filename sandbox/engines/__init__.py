"""What runs inside a jail, one folder for each engine."""
