"""Nodes, what was read from their machines, what they were told to do."""

from fleet.models.command import Command
from fleet.models.node import ANSWERING, Kind, Node, State
from fleet.models.profile import AllocationProfile
from fleet.models.reading import Reading, Sample

__all__ = ["ANSWERING", "AllocationProfile", "Command", "Kind", "Node", "Reading", "Sample", "State"]
