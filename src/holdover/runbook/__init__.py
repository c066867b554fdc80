"""What an operator sees, why, and what to do: one topic for each kind of refusal and alarm."""

from holdover.runbook.lookup import TOPICS, explain, topic_of
from holdover.runbook.topic import Topic

__all__ = ["TOPICS", "Topic", "explain", "topic_of"]
