"""The journal: a record of runs, submits, removals, moves of names, and refused requests.

    handlers --note--> Journal (a queue in memory) --flush, in a thread, once a second--> journal.sqlite3
                                                   <--read, in a thread--  the `journal` and `journal_stats` requests

The event loop only appends to the queue, which has a bound. If the queue is full, further entries are dropped and
counted. An entry is on the disk about a second after its run, so a kill of the daemon loses the entries of the last
second. Runs never wait for the journal, and disk errors do not affect them.
"""

from promptlogd.journal.entry import Entry
from promptlogd.journal.journal import Journal
from promptlogd.journal.run_entry import run_entry

__all__ = ["Entry", "Journal", "run_entry"]
