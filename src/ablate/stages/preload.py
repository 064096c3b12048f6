"""Imported once by a fork server: the heavy libraries, and where their code comes from.

CUDA is never touched here, because a forked process cannot use a CUDA context of its parent.
"""

import ablate.stages.evaluation
import ablate.stages.labels
import ablate.stages.policy
import ablate.stages.pool
import ablate.stages.ref_logps
import ablate.stages.scores
import ablate.stages.sft  # noqa: F401
from ablate.store.provenance import provenance

# of the code that was imported here, whatever is edited while jobs are forked from it
provenance()
