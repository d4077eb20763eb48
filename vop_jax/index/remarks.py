"""What is to be said of an answer: it was not asked for as it was meant."""

from collections.abc import Sequence
from typing import Protocol

from data_pipelines.console.names import shortened
from data_pipelines.console.printable import printable
from data_pipelines.text.tokenizer import Tokenizer
from vop_jax.index.answers import Answer, Found, Query


class _Index(Protocol):
    def folder_remark(self, folder: str) -> str: ...


def remarked(
    index: _Index,
    found: Found,
    queries: Sequence[Query],
    tokenizer: Tokenizer,
    folder: str,
) -> Found:
    """The results with their remarks; all hits of a text without a known word are weak.

    Args:
        index: what was searched.
        found: the results.
        queries: one an answer.
        tokenizer: knows the model's words.
        folder: that was searched in; empty for all.
    """
    answers, said = [], {}
    for query, answer in zip(queries, found.answers, strict=True):
        remark = tokenizer.remark(query.text) if query.text else ""
        if remark:
            said.setdefault(remark, []).append(shortened(query.text))
            if not tokenizer.knows_any(query.text):
                answer = _all_weak(answer)
        answers.append(answer)
    # With one query there is no doubt which one is meant.
    remarks = [
        f"{', '.join(dict.fromkeys(texts))}: {remark}" if len(queries) > 1 else remark
        for remark, texts in said.items()
    ]
    remarks.append(index.folder_remark(folder) if folder else "")
    told = tuple(printable(remark) for remark in remarks if remark)
    return found._replace(answers=answers, remarks=told)


def _all_weak(answer: Answer) -> Answer:
    return answer._replace(hits=[hit._replace(weak=True) for hit in answer.hits])
