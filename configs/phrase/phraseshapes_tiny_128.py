_base_ = ["../_base_/ground_tiny.py"]
task = "phrase"
data = dict(root="data/refshapes", dataset="phraseshapes", group_by_picture=False)
