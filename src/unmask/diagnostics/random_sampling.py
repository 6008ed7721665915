"""Do random points break what the usual attack's gradients leave?"""

from __future__ import annotations

from unmask.attacks import random_noise
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.sample import Sample

SHARE = 0.2
DRAWS = 10


def random_sampling(survivors: Sample, claim: str, draws: int = DRAWS) -> Finding:
    """Try `draws` random corners of the ball around images that the usual attack, `claim`, left standing.

    Where chance finds what the attack does not, its gradients are useless (Athalye et al. 2018, Section 3.1). One
    forward per draw, until an image is broken.
    """
    result = random_noise(
        survivors.model,
        survivors.x,
        survivors.y,
        threat=survivors.threat,
        restarts=draws,
        generator=survivors.streams.child("random_sampling"),
    )
    broken = int(result.broken.sum())
    share = broken / max(len(survivors), 1)
    lucky = broken > 1 and share >= SHARE
    return Finding(
        "random_sampling",
        "fail" if lucky else "ok",
        f"{draws} random points break {broken} of {len(survivors)} images that {claim} leaves standing.",
        {"broken": broken, "draws": draws, "n": len(survivors), "claim": claim},
        f"Do not trust {claim} here: its gradients do worse than chance." if lucky else "",
        forwards=int(result.forwards.sum()),
    )
