_base_ = ["../_base_/ground_sd15.py"]
task = "phrase"
model = dict(head=dict(answers="both"))
data = dict(root="data/refshapes", dataset="phraseshapes", overlap="union")
