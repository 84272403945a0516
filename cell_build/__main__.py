from cell_build.checkout import main

main()
