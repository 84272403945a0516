"""Cells: jailed engines that run one job each, and the pools that keep them. The same for every engine."""
