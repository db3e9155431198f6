from hypothesis import given
from hypothesis import strategies as st

from medtuner.documents import Document
from medtuner.prediction import cut_groups


@given(st.lists(st.sampled_from([0, 10, 90_000, 150_000, 300_000]), max_size=30))
def test_groups_hold_every_document_in_order_and_little_text(lengths: list[int]) -> None:
    documents = [Document(id=str(i), text="x" * length) for i, length in enumerate(lengths)]
    groups = list(cut_groups(documents))
    assert [document for group in groups for document in group] == documents
    assert all(len(group) == 1 or sum(len(document.text) for document in group) <= 200_000 for group in groups)


def test_many_short_documents_are_cut_by_number() -> None:
    groups = list(cut_groups([Document(id=str(i), text="x") for i in range(1100)]))
    assert [len(group) for group in groups] == [512, 512, 76]
