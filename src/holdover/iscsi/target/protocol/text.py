"""Text negotiation in full feature phase as the target sees it: SendTargets above all (RFC 7143 11.10,
11.11, appendix C)."""

from __future__ import annotations

from dataclasses import dataclass

from holdover.iscsi.errors import TextError
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.numbers import NO_TAG
from holdover.iscsi.requests import TextRequest
from holdover.iscsi.target.protocol.login import TargetConfig, TargetLogin
from holdover.iscsi.text import MAX_TEXT, KeyUse, decode_text, encode_text


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """The content of a Text Response; `target_tag` is NO_TAG when nothing more follows."""

    data: bytes
    target_tag: int = NO_TAG
    final: bool = True
    more: bool = False


class TargetText:
    """The text exchange of a session; there is at most one at a time, over any number of PDUs."""

    def __init__(self, config: TargetConfig, addresses: tuple[str, ...], login: TargetLogin) -> None:
        self._config = config
        self._addresses = addresses
        self._login = login
        self._target_tag = 0
        self._task_tag = NO_TAG
        self._request = b""
        self._answer = b""

    def receive(self, pdu: TextRequest, parameters: Parameters) -> TextAnswer:
        """Take one Text Request.

        Raises:
            TextError: The text is malformed, or the tag is not of the current exchange. The exchange is over.
        """
        if pdu.target_tag == NO_TAG:
            self._start(pdu.task_tag)
        elif (pdu.target_tag, pdu.task_tag) != (self._target_tag, self._task_tag):
            raise TextError("Text Request of an exchange that is not under way")
        if not self._answer:
            self._request += pdu.data
            if len(self._request) > MAX_TEXT:
                self._start(NO_TAG)
                raise TextError(f"text is longer than {MAX_TEXT}")
            if pdu.more:
                return TextAnswer(b"", self._target_tag, final=False)
            request, self._request = self._request, b""
            self._answer = encode_text(self._answers(decode_text(request)))
        room = parameters.max_send_data_segment_length
        part, self._answer = self._answer[:room], self._answer[room:]
        if self._answer or not pdu.final:
            return TextAnswer(part, self._target_tag, final=False, more=bool(self._answer))
        self._task_tag = NO_TAG
        return TextAnswer(part)

    def _start(self, task_tag: int) -> None:
        self._target_tag = (self._target_tag + 1) & 0x7FFF_FFFF
        self._task_tag = task_tag
        self._request = self._answer = b""

    def _answers(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        answers: list[tuple[str, str]] = []
        for name, value in pairs:
            if name == "SendTargets":
                answers += self._send_targets(value)
        rest = [(name, value) for name, value in pairs if name != "SendTargets"]
        return answers + self._login.negotiator.receive(rest, KeyUse.FULL_FEATURE)

    def _send_targets(self, wanted: str) -> list[tuple[str, str]]:
        """The name and the addresses of the target; "All" is only for discovery sessions."""
        name = self._config.name
        if wanted == "All" and not self._login.discovery:
            return [("SendTargets", "Reject")]
        if wanted not in ("All", "") and wanted.lower() != name:
            return []
        tag = self._config.portal_group_tag
        return [
            ("TargetName", name),
            *(("TargetAddress", f"{address},{tag}") for address in self._addresses),
        ]
