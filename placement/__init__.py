"""Makes the placement table of the QuickJS cell, `sandbox/engines/quickjs/jail/placement.h`: `make placement`.

The cell's allocator puts the blocks of the start that runs write to side by side (the jail's memory.c says why). Which
these are is found out by a build of the cell that traces the writes of sample programs. The wheel does not contain this
package.
"""
