"""What must be so before any test imports torch."""

import os

# OpenMP's threads wait for each other by spinning. On cores that others use too, that makes these tests' many small
# operations ten times slower; sleeping costs next to nothing, and changes no result.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
