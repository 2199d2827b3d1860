"""JMESPath within bounds: what is refused, what it costs, and that nothing else ever comes out of it."""

from decimal import Decimal
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.expressions import FUNCTIONS, MOST_STEPS, Budget, Expression, ExpressionError

EXPLOSIONS = {
    "doubled lists as text": "|".join(["[@,@]"] * 15) + "|to_string(@)",
    "doubled lists compared": "|".join(["[@,@]"] * 12) + "|[@==@]",
    "doubled and flattened": "[@,@,@,@][]|" * 8 + "@",
    "projection of a projection": "[].[[@,@],[@,@]][][].[[@,@],[@,@]][][].[@,@][]",
    "every pair": "[?@ == @][].[@, @][] | [?@ == @] | map(&to_string(@), @)",
    "join with a large separator": "join(to_string(@), map(&to_string(@), @))",
    "text of text of text": "to_string([to_string([to_string([to_string([to_string(@)])])])])",
    "merged and sorted": "sort_by([@[],@[],@[]][], &to_string(@))",
}


def search(text: str, document: object) -> Any:
    return Expression(text).search(document, Budget())


def test_it_finds_what_jmespath_finds() -> None:
    document = {"a": {"b": [{"c": "x", "d": 1}, {"c": "y", "d": Decimal("12.50")}]}, "e": "", "f": "z"}
    assert search("a.b[?c=='y'].d | [0]", document) == Decimal("12.50")
    assert search("e || f", document) == "z"
    assert search("join('/', [f, to_string(a.b[1].d)])", document) == "z/12.50"
    assert search("a.missing[0].x", document) is None
    assert search("a.b[?d > `5`].c", document) == ["y"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be empty"),
        ("a.", "xpression"),
        ("a" * 501, "longer than 500"),
        ("[" * 40 + "a" + "]" * 40, "nested deeper"),
        ("(" * 240 + "a", "xpression"),
        (".".join("a" * 120), "more than 100 parts"),
        ("sum(a)", "no function sum"),
        ("to_number(a)", "no function to_number"),
        ("a[?avg(b)]", "no function avg"),
        ("`a`", "deprecated"),
        ("a[", "xpression"),
        ("\x00", "Unknown token"),
    ],
)
def test_what_cannot_be_evaluated_safely_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        Expression(text)


@pytest.mark.parametrize("text", EXPLOSIONS.values(), ids=EXPLOSIONS.keys())
def test_an_explosion_is_bounded(text: str) -> None:
    document = [["x" * 50] * 20 for _ in range(200)]
    started = perf_counter()
    with pytest.raises(ExpressionError, match="too many steps"):
        search(text, document)
    # Some tens of milliseconds; what is not bounded takes minutes, or all memory.
    assert perf_counter() - started < 5


def test_a_budget_is_shared_by_the_expressions_of_one_document() -> None:
    budget, expression = Budget(), Expression("a[*].b")
    document = {"a": [{"b": 1}] * 1000}
    assert len(expression.search(document, budget)) == 1000
    spent = MOST_STEPS - budget.left
    assert spent > 1000
    budget.left = spent - 1
    with pytest.raises(ExpressionError, match="too many steps"):
        expression.search(document, budget)


@pytest.mark.parametrize("text", ["a < b", "sort(c)", "a[::0]", "max_by(c, &x)", "keys(a)", "join('-', c)"])
def test_a_document_that_does_not_fit_is_an_error_with_its_reason(text: str) -> None:
    with pytest.raises(ExpressionError, match=r".+"):
        search(text, {"a": "x", "b": 1, "c": [1, "x"]} if text != "a[::0]" else {"a": [1]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=5),
    max_leaves=30,
)
fragments = st.sampled_from(
    [
        *("a", "b", "c", ".", "[*]", "[0]", "[]", "*", " | ", " || ", " && ", "!", "(", ")", "@", "&", ", ", "{a: b}"),
        *("[a, b]", "[?", "]", " == ", " < ", "`1`", "'x'", "[::2]", "[-1]", "sum("),
        *(f"{name}(" for name in FUNCTIONS),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(fragments, max_size=12).map("".join) | st.text(max_size=40), json_values)
def test_nothing_but_a_value_or_its_own_error_comes_out(text: str, document: object) -> None:
    reason = None
    try:
        search(text, document)
    except ExpressionError as error:
        reason = str(error)
    assert reason != ""
