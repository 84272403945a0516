"""Cells (jailed engines that execute one job at a time) and pools of them. The same for every engine."""
