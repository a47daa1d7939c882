# Names only: what they do is in scripts/.
.PHONY: demo test fuzz clean-lab
demo: ; @KEEP=$(KEEP) scripts/demo
test: ; @scripts/test
fuzz: ; @scripts/fuzz
clean-lab: ; @scripts/demo clean
