"""The version of promptlog. The build reads it from here.

To read it from the installed metadata instead would take a tenth of the CPU time of a daemon's start.
"""

VERSION = "0.1.0"
