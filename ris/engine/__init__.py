"""How systems are trained and tested: mmengine's Runner with the parts this field needs."""
