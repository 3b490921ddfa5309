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
