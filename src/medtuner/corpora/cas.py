"""UIMA CAS as INCEpTION exports it, XMI and JSON, through the `dkpro-cassis` library.

A folder or zip of one XMI is what INCEpTION calls "UIMA CAS XMI"; the type system is `TypeSystem.xml` beside it (any one
`*typesystem*.xml`). Named entities and custom span layers are read; tokens, sentences, parts of speech and other layers of
the linguistic core are not mentions. The label is the feature `value`, `label` or `entity`, else the layer's own name; the
feature `identifier` becomes `concept`. UIMA counts UTF-16 units; the library converts them to code points.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medtuner.corpora.bioc_format import check_xml, first_line, open_binary
from medtuner.corpora.intake import Intake, Mention
from medtuner.corpora.unwritten import count_unwritten
from medtuner.documents import Document, Offsets
from medtuner.errors import DataError

NAMED_ENTITY = "de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity"
_CORE = "de.tudarmstadt.ukp.dkpro.core.api."
_TOKEN = _CORE + "segmentation.type.Token"
_METADATA = _CORE + "metadata.type.DocumentMetaData"
_LABEL_FEATURES = ("value", "label", "entity")


def read_cas(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the document of an XMI or JSON file, or those of a folder."""
    if path.is_dir():
        files = sorted(file for pattern in ("*.xmi", "*.json") for file in path.rglob(pattern))
        if not files:
            raise DataError(f"{path}: no .xmi or .json file in it.")
        for file in files:
            yield from read_cas(file, intake)
        return
    cas = _load(path)
    yield _read_document(cas, path, intake)


def _load(path: Path) -> Any:
    import cassis
    from cassis.typesystem import AnnotationHasNoSofa, TypeCheckError, TypeNotFoundError
    from lxml.etree import XMLSyntaxError

    with open_binary(path) as stream:
        try:
            if path.name.removesuffix(".gz").endswith(".json"):
                return cassis.load_cas_from_json(stream)
            system = _find_type_system(path)
            with system.open("rb") as types:
                return cassis.load_cas_from_xmi(stream, typesystem=cassis.load_typesystem(types))
        except (
            XMLSyntaxError,
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            EOFError,
            OSError,
            IndexError,
            AnnotationHasNoSofa,
            TypeCheckError,
            TypeNotFoundError,
        ) as error:
            raise DataError(f"{path}: not readable as UIMA CAS ({first_line(error)}).") from None


def _find_type_system(path: Path) -> Path:
    found = sorted(file for file in path.parent.glob("*.xml") if "typesystem" in file.name.lower())
    if not found:
        raise DataError(f"{path}: no TypeSystem.xml beside it; INCEpTION's export holds one.")
    if len(found) > 1:
        raise DataError(f"{path}: which is its type system: {', '.join(file.name for file in found)}? Keep one.")
    return found[0]


def _read_document(cas: Any, path: Path, intake: Intake) -> Document:
    text = cas.sofa_string
    if not isinstance(text, str):
        raise DataError(f"{path}: the CAS holds no text.")
    mentions: list[Mention] = []
    tokens: list[Offsets] = []
    identifier = path.name.removesuffix(".gz").rpartition(".")[0]
    for annotation in cas.select_all_annotations():
        name = annotation.type.name
        if name == _METADATA:
            identifier = getattr(annotation, "documentId", None) or identifier
        elif not hasattr(annotation, "begin") or annotation.begin is None:
            continue
        elif name == _TOKEN:
            tokens.append((annotation.begin, annotation.end))
        elif is_mention_layer(name) and _is_relation(annotation):
            intake.left_out["relation"] += 1
        elif is_mention_layer(name):
            mentions.append(_read_annotation(annotation, path))
        elif not name.startswith(_CORE + "segmentation") and "DocumentAnnotation" not in name:
            intake.left_out[f"layer {name.rpartition('.')[2]}"] += 1
    if any(not 0 <= start < end <= len(text) for start, end in tokens):
        raise DataError(f"{path}: a token lies outside the text of {len(text)} characters.")
    return intake.document(identifier, text, mentions, where=str(path), tokens=tuple(sorted(tokens)) or None)


def is_mention_layer(name: str) -> bool:
    """Say whether a layer holds mentions: named entities and custom layers, not the linguistic core."""
    return name == NAMED_ENTITY or not name.startswith(("uima.", "de.tudarmstadt.ukp."))


def _is_relation(annotation: Any) -> bool:
    return {"Governor", "Dependent"} <= {feature.name for feature in annotation.type.all_features}


def _read_annotation(annotation: Any, path: Path) -> Mention:
    features = {feature.name: annotation.get(feature.name) for feature in annotation.type.all_features}
    label = next((features[key] for key in _LABEL_FEATURES if features.get(key)), None)
    name = annotation.type.name.rpartition(".")[2]
    concept = features.pop("identifier", None)
    further = {
        key: value
        for key, value in features.items()
        if key not in ("begin", "end") and value != label and isinstance(value, str | int | float)
    }
    extra: dict[str, Any] = {"attributes": further} if further else {}
    return Mention(
        fragments=((annotation.begin, annotation.end),),
        labels=tuple(part.strip() for part in str(label or name).split(",")),
        where=f"{path}: {name} {annotation.begin}-{annotation.end}",
        extra=extra | ({"concept": str(concept)} if concept else {}),
    )


def write_cas(path: Path, documents: Iterable[Document]) -> Counter[str]:
    """Write a folder with one XMI a document and `TypeSystem.xml`, ready for INCEpTION; return what could not be kept."""
    import cassis

    left_out: Counter[str] = Counter()
    path.mkdir(parents=True, exist_ok=True)
    system = cassis.load_dkpro_core_typesystem()
    metadata = system.create_type(name=_METADATA, supertypeName="uima.tcas.DocumentAnnotation")
    for feature in ("documentTitle", "documentId", "documentUri", "collectionId", "documentBaseUri"):
        system.create_feature(domainType=metadata, name=feature, rangeType="uima.cas.String")
    system.to_xml(path / "TypeSystem.xml")
    entity, token = system.get_type(NAMED_ENTITY), system.get_type(_TOKEN)
    written: set[Path] = set()
    for document in documents:
        check_xml(document)
        cas = cassis.Cas(typesystem=system)
        cas.sofa_string = document.text
        cas.sofa_mime = "text/plain"
        cas.add(metadata(begin=0, end=len(document.text), documentId=document.id, documentTitle=document.id))
        for start, end in document.tokens or ():
            cas.add(token(begin=start, end=end))
        for span in document.spans:
            concept = span.extra.get("concept")
            if wrong := next((label for label in span.labels if "," in label or label != label.strip()), None):
                raise DataError(f"document {document.id}: label {wrong!r} cannot be written as CAS: no commas.")
            cas.add(entity(begin=span.start, end=span.end, value=",".join(span.labels), identifier=concept))
        file = path / f"{document.id.replace('/', '_')}.xmi"
        if file in written:
            raise DataError(
                f"document {document.id!r}: its id makes no file name of its own, which a CAS folder needs."
            )
        written.add(file)
        cas.to_xmi(file)
        count_unwritten(document, left_out, span_keys=("concept",), holds=("tokens",))
    return +left_out
