"""Tasks: behaviours to explain, as pairs of prompts with answers and a metric."""

from interp.tasks.catalogue import Family as Family
from interp.tasks.catalogue import families as families
from interp.tasks.check import TaskReport as TaskReport
from interp.tasks.greater_than_family import greater_than as greater_than
from interp.tasks.induction_family import induction as induction
from interp.tasks.ioi_family import ioi as ioi
from interp.tasks.metrics import KL as KL
from interp.tasks.metrics import METRICS as METRICS
from interp.tasks.metrics import Custom as Custom
from interp.tasks.metrics import LogitDiff as LogitDiff
from interp.tasks.metrics import LogProb as LogProb
from interp.tasks.metrics import Loss as Loss
from interp.tasks.metrics import Metric as Metric
from interp.tasks.metrics import Prob as Prob
from interp.tasks.metrics import ProbDiff as ProbDiff
from interp.tasks.metrics import Rank as Rank
from interp.tasks.metrics import Reading as Reading
from interp.tasks.task import Task as Task
