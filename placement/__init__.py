"""Makes the placement table of the QuickJS cell, `sandbox/engines/quickjs/jail/placement.h`: `make placement`.

The cell's allocator groups the blocks that the cell allocates at its start and that runs write to later. The jail's
memory.c says why. A build of the cell that traces the writes of sample programs finds these blocks. The wheel does not
contain this package.
"""
