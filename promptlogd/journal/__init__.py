"""The journal: who ran, kept, removed and renamed what, and how it ended.

    handlers --note--> Journal (a queue in memory) --flush, in a thread, once a second--> journal.sqlite3
                                                   <--read, in a thread--  the `journal` and `journal_stats` requests

The loop only appends to the queue, which has a bound. Entries that find it full are dropped and counted. An entry is on
the disk about a second after the run, so a kill of the daemon loses the entries of the last second. No run ever waits
for the journal, and no failure of the disk reaches a run.
"""

from promptlogd.journal.entry import Entry
from promptlogd.journal.journal import Journal
from promptlogd.journal.run_entry import run_entry

__all__ = ["Entry", "Journal", "run_entry"]
