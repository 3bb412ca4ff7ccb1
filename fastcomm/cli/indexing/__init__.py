"""The job behind ``fastcomm demo``: many agents index the words of a real corpus, and the result is proved.

::

    reader --work.<tokenizer>--> tokenizer --words.<p>--> owner of part p --counts--> aggregator
       ^------ reader.<r>.done ------'

corpus.py      which files, what a word is, how a text is cut into batches, the plain single-process count
plan.py        how agents are split into roles, and the sizes that bound every queue
accounting.py  which batches are out, done or lost; which counted words may be relied on
latency.py     log-bucketed counts of message latencies
memory.py      private pages of this process, resident pages of a file
messages.py    what agents send that always has the same fields
link.py        a process's place on the bus: joined, warmed up, measured, counted
roles.py       reader, tokenizer, owner, aggregator
crew.py        their processes: started, killed, replaced, ended
supervisor.py  directs a run, watches the crew, collects what it reports
outcome.py     what a run hands to the report
progress.py    what the live table shows
report.py      the comparison with the plain count, and the summary
"""

from fastcomm.errors import FastCommError


class IndexingError(FastCommError):
    """The indexing job can't go on; the text names the role, file or wait that stopped it."""
