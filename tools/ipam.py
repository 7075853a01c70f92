"""`python -m tools.ipam` is `coild-ipam`, the CNI IPAM plugin."""

from tools.cni.main import main

if __name__ == "__main__":
    main()
