"""The executor of what `holdover.handover` decides, on the source and on the destination.

It uses `agent.guests`, `agent.attach`, `api` and `journal`. Only `agent` may import it.
"""
