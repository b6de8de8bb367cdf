# SPDX-License-Identifier: Apache-2.0
# cmake -DDIR=... -DOUT=page.c -P embed.cmake: puts style and script into the page, and page and icon into a C file.
# The Content-Security-Policy names the style and the script by their hashes: nothing else may run in the page.

# Base64 of the SHA-256 of a text: the form that the policy wants.
function(policy_hash text ret)
    string(SHA256 hex "${text}")
    string(APPEND hex "00") # 32 bytes are 10 groups of 3 and 2 more
    set(alphabet "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    set(out "")
    foreach(at RANGE 0 60 6)
        string(SUBSTRING "${hex}" ${at} 6 group)
        foreach(shift 18 12 6 0)
            math(EXPR index "(0x${group} >> ${shift}) & 63")
            string(SUBSTRING "${alphabet}" ${index} 1 letter)
            string(APPEND out "${letter}")
        endforeach()
    endforeach()
    string(SUBSTRING "${out}" 0 43 out) # the last letter stands for the byte that we added
    set(${ret} "${out}=" PARENT_SCOPE)
endfunction()

function(c_array name file ret)
    file(READ "${file}" hex HEX)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
    set(${ret} "const unsigned char ${name}[] = {${bytes}};\nconst size_t ${name}_size = sizeof(${name});\n" PARENT_SCOPE)
endfunction()

file(READ "${DIR}/page.html" html)
file(READ "${DIR}/page.css" style)
file(READ "${DIR}/page.js" script)
policy_hash("${style}" style_hash)
policy_hash("${script}" script_hash)
string(REPLACE "@STYLE@" "${style}" html "${html}")
string(REPLACE "@SCRIPT@" "${script}" html "${html}")
file(WRITE "${OUT}.html" "${html}")
string(MD5 tag "${html}")
c_array(page_html "${OUT}.html" page)
c_array(page_icon "${DIR}/icon.svg" icon)
file(WRITE "${OUT}" "/* Made by examples/lookup/page/embed.cmake. */
#include \"page.h\"
${page}${icon}const char page_etag[] = \"\\\"${tag}\\\"\";
const char page_csp[] =
        \"default-src 'none'; connect-src 'self'; img-src 'self'; style-src 'sha256-${style_hash}'; \"
        \"script-src 'sha256-${script_hash}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'\";
")
