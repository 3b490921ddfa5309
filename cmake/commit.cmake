# The commit as a header for config.c: cmake -D SOURCE=.. -D OUT=.. -P commit.cmake. It runs with every build; the file changes with the
# commit alone. Of an archive, or without git, the commit is "".
cmake_minimum_required(VERSION 3.25)
set(commit "")
if(EXISTS ${SOURCE}/.git)
  execute_process(COMMAND git --no-optional-locks -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define NLA_COMMIT \"${commit}\"\n")
