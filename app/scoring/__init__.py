"""Scoring of many images without a server: a source of images in, shards of rows out.

A run goes through these parts, which do not know each other:

- `sources.open_source` turns the arguments into a `Source`: `records` in a fixed order, from any
  position, and a description to recognise the same source by. The kinds are in `files`, `archives`
  and `tables`.
- `records.Record` is one image: an id with its bytes, its path or a failure.
- `prepare.prepare` reads and decodes a record; needs only `Classifier.preprocess`.
- `scorer.Scorer` runs records through the server's decoding threads and engine, and returns a
  `rows.Row` for each, in order.
- `rows.schema` and `rows.to_table` define the output's columns.
- `shards.Shards` writes each shard whole or not at all, and counts those of an earlier run.
- `output.open_output` locks the directory, compares it with this run, and writes its manifest.
- `run.run` connects them: it skips the rows of complete shards, and scores shard by shard.

`cluster.run_on_cluster` replaces `run.run` on a Ray cluster: `stages` holds the code that runs
there, on the same records, with the same decoding and scorer, so that the rows are the same.
"""
