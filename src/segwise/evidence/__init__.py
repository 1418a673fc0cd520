"""Published claims: what others report of models on data sets, with a source for every row, asked through DuckDB.

`base.open_base()` opens the tables, `query.ask` filters them, `compare.beside` sets figures side by side,
`statements.reproduce` recomputes the survey's claims, `cite.works` says whom to cite. The survey is Moglia et al.,
arXiv 2506.10825.
"""
