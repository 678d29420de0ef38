from hct_lightning.app import main

main()
