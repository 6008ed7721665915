"""Audits: a plan of attacks on the survivors, verification, the ledger, the verdict."""

import sys
from types import ModuleType

from unmask.audit.budgets import ACCESS, BUDGETS, PLANS, Plan, make_plan
from unmask.audit.diagnose import USUAL_STUDIES, DiagnosisProgress, diagnose, study_names
from unmask.audit.plan import PlannedAttack, Task
from unmask.audit.runner import AuditProgress, AuditResult, audit
from unmask.audit.spec import Subject
from unmask.audit.studies import STUDIES, Settings, Study
from unmask.audit.verdict import Verdict, decide
from unmask.audit.verification import Replay, verify

__all__ = [
    "ACCESS",
    "BUDGETS",
    "PLANS",
    "STUDIES",
    "USUAL_STUDIES",
    "AuditProgress",
    "AuditResult",
    "DiagnosisProgress",
    "Plan",
    "PlannedAttack",
    "Replay",
    "Settings",
    "Study",
    "Subject",
    "Task",
    "Verdict",
    "audit",
    "decide",
    "diagnose",
    "make_plan",
    "study_names",
    "verify",
]


class _CallableRoom(ModuleType):
    """The room as a function: whoever imports it first, `unmask.audit` is both a module and a call."""

    __call__ = staticmethod(audit)


sys.modules[__name__].__class__ = _CallableRoom
