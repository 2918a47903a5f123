"""Where the bytes of uploads are: parts while they come, then one content. Who may see them, and what is acknowledged,
is for others to say.
"""

from services.uploads.store.folder import FolderStore
from services.uploads.store.objects import ObjectStore
from services.uploads.store.opening import open_store
from services.uploads.store.words import BytesMissing, Digest, Part, Piece, SpentStretch, Store, StoreFull, Stretch

__all__ = (
    "BytesMissing",
    "Digest",
    "FolderStore",
    "ObjectStore",
    "Part",
    "Piece",
    "SpentStretch",
    "Store",
    "StoreFull",
    "Stretch",
    "open_store",
)
