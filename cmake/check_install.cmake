# The test of `cmake --install`: installs into an empty prefix, compiles a program against what lies there by pkg-config alone,
# runs it, and compares the library's exports with the header's functions.
#
#	cmake -D BUILD_DIR=.. -D PREFIX=.. -D CC=.. -D NM=.. -D PKG_CONFIG=.. -D LIBDIR=.. -D COMMANDS=a,b -P check_install.cmake
function(run)
  cmake_parse_arguments(ARG "" "OUT" "" ${ARGN})
  execute_process(COMMAND ${ARG_UNPARSED_ARGUMENTS} OUTPUT_VARIABLE out ERROR_VARIABLE err RESULT_VARIABLE rc
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT rc EQUAL 0)
    message(FATAL_ERROR "${ARG_UNPARSED_ARGUMENTS}: exit ${rc}\n${out}${err}")
  endif()
  if(ARG_OUT)
    set(${ARG_OUT} "${out}" PARENT_SCOPE)
  endif()
endfunction()

file(REMOVE_RECURSE ${PREFIX})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${PREFIX})
string(REPLACE "," ";" COMMANDS "${COMMANDS}")
foreach(program ${COMMANDS})
  run(${PREFIX}/bin/${program} --help)
endforeach()

if(NOT EXISTS ${BUILD_DIR}/nla.map)
  return()
endif()
file(READ ${BUILD_DIR}/nla.map map)
string(REGEX MATCHALL "nla_[a-z0-9_]+" functions "${map}")
list(LENGTH functions n_functions)
if(n_functions EQUAL 0)
  message(FATAL_ERROR "include/nla.h declares no function")
endif()
run(${NM} -D --defined-only -j ${PREFIX}/${LIBDIR}/libnla.so OUT exported)
string(REGEX REPLACE "[ \n]+" ";" exported "${exported}")
list(SORT exported)
if(NOT exported STREQUAL functions)
  message(FATAL_ERROR "libnla.so exports '${exported}', include/nla.h declares '${functions}'")
endif()

set(ENV{PKG_CONFIG_PATH} ${PREFIX}/${LIBDIR}/pkgconfig)
run(${PKG_CONFIG} --cflags --libs nla OUT flags)
separate_arguments(flags UNIX_COMMAND "${flags}")
list(TRANSFORM functions PREPEND "(void (*)(void))" OUTPUT_VARIABLE pointers)
list(JOIN pointers ", " pointers)
file(WRITE ${PREFIX}/user.c "#include <nla.h>
static void (*volatile functions[])(void) = { ${pointers} };
int main(void)
{
	for (unsigned i = 0; i < sizeof(functions) / sizeof(*functions); i++)
		if (!functions[i])
			return 1;
	return 0;
}
")
run(${CC} -std=c11 -Wall -Wextra -Wstrict-prototypes -Wno-cast-function-type -Werror ${PREFIX}/user.c -o ${PREFIX}/user ${flags}
  -Wl,-rpath,${PREFIX}/${LIBDIR})
run(${PREFIX}/user)

# The program of docs/embedding.md, with what the page says that it prints, and how it fails.
set(source ${CMAKE_CURRENT_LIST_DIR}/..)
file(READ ${source}/docs/embedding.md page)
if(NOT page MATCHES "```c\n(.*)\n```\n\nIt compiles.*and says of the demo[^\n]*\n\n    ([^\n]*)\n    (cosine 0[.][0-9]+)\n")
  message(FATAL_ERROR "docs/embedding.md has no program, or does not say what it prints")
endif()
set(said "${CMAKE_MATCH_2}\n${CMAKE_MATCH_3}")
file(WRITE ${PREFIX}/app.c "${CMAKE_MATCH_1}\n")
run(${CC} -std=c11 -Wall -Wextra -Werror ${PREFIX}/app.c -o ${PREFIX}/app ${flags} -Wl,-rpath,${PREFIX}/${LIBDIR})
run(${CMAKE_COMMAND} -E chdir ${source} ${CMAKE_COMMAND} -E env OMP_NUM_THREADS=1 ${PREFIX}/app OUT printed)
if(NOT printed STREQUAL said)
  message(FATAL_ERROR "the program of docs/embedding.md prints\n${printed}\nand the page says\n${said}")
endif()
foreach(folder ${source} ${PREFIX}) # an empty text; no demo there
  execute_process(COMMAND ${PREFIX}/app "" WORKING_DIRECTORY ${folder} OUTPUT_VARIABLE out ERROR_VARIABLE err RESULT_VARIABLE rc)
  if(NOT rc EQUAL 1 OR NOT out STREQUAL "" OR NOT err MATCHES "^app: [^\n]+\n$")
    message(FATAL_ERROR "the program of docs/embedding.md exits ${rc} in ${folder}:\n${out}${err}")
  endif()
endforeach()
