# Names only: what they do is in scripts/.
.PHONY: bench soak demo test cluster-test vm-test image fuzz show-ten mutate-policy clean-lab
demo: ; @KEEP=$(KEEP) scripts/demo
test: ; @scripts/test
cluster-test: ; @scripts/cluster-test
vm-test: ; @scripts/vm-test $(ONLY)
image: ; @scripts/image
bench: ; @scripts/bench
soak: ; @scripts/bench soak
fuzz: ; @scripts/fuzz
show-ten: ; @scripts/show-ten
mutate-policy: ; @scripts/mutate-policy
clean-lab: ; @scripts/demo clean
