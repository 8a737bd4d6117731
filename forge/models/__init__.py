"""Models on the nodes' disks, their loaded copies, how they are loaded and what that took, and downloads."""

from forge.models.download import Download
from forge.models.instance import Instance, Origin
from forge.models.measurement import Measurement
from forge.models.model import Model
from forge.models.policy import NodePolicy
from forge.models.profile import LoadProfile

__all__ = ["Download", "Instance", "LoadProfile", "Measurement", "Model", "NodePolicy", "Origin"]
