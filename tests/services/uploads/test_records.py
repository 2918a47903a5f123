"""What is asked often is answered by an index, however many rows there are."""

from __future__ import annotations

import pytest

from services.uploads.records import LIST, LIST_IN_STATE, NEEDED
from tests.support.hub_database import HubDatabase

ROWS = """
INSERT INTO hub.uploads (org, id, owner, state, filename, document_type, size)
SELECT 'acme', 'U' || n, 'bot', CASE WHEN n % 10 = 0 THEN 'receiving' ELSE 'available' END, 'a', 'csv', 1
FROM generate_series(1, 5000) AS n
"""
PARTS = """
INSERT INTO hub.upload_parts (org, upload, first, size, object)
SELECT 'acme', 'U10', n, 1, 'acme/U10/parts/' || n FROM generate_series(1, 5000) AS n
"""


@pytest.fixture
async def many(hub_database: HubDatabase) -> HubDatabase:
    async with hub_database.connect("postgres") as link:
        for statement in (ROWS, PARTS, "ANALYZE hub.uploads", "ANALYZE hub.upload_parts"):
            await link.execute(statement)
    return hub_database


@pytest.mark.parametrize(
    ("query", "types", "values", "index"),
    [
        (LIST, "text, text, int, text", "'acme', 'bot', 50, NULL", "uploads_of_owner"),
        (LIST_IN_STATE, "text, text, int, text, text", "'acme', 'bot', 50, NULL, 'cancelled'", "uploads_in_state"),
        (NEEDED, "text, text", "'acme', 'U20'", "upload_parts_elsewhere"),
    ],
)
async def test_by_an_index(many: HubDatabase, query: str, types: str, values: str, index: str) -> None:
    async with many.connect("hub_app") as link, link.transaction():
        await link.execute("SELECT set_config('hub.org', 'acme', true)")
        await link.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await link.execute(f"PREPARE question ({types}) AS {query}")
        plan = [row[0] for row in await link.fetch(f"EXPLAIN EXECUTE question ({values})")]
        await link.execute("DEALLOCATE question")
    assert any(index in line for line in plan), plan
    assert not any("Seq Scan" in line or "Sort" in line for line in plan), plan
