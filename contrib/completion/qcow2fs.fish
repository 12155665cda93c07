# SPDX-License-Identifier: MIT
#
# fish completion for qcow2fs and qcow2ctl: one file, under both names (a link) where fish looks. As
# that for bash (beside this file, which tells what the lines mean) it knows no command and no option:
# the programs say what they take (--help=names, --help=values).

# The items, of the lines on standard input, that can follow in the list that the current token has.
function __qcow2_list
    set -l token (commandline -ct)
    set -l before (string match -r '^(?:--[^=]*=|-o)?(.*,)?' -- $token)[2]
    set -l item (string replace -r '^(?:--[^=]*=|-o)?(?:.*,)?' '' -- $token)
    set -l typed (string split -m 1 = -- $item)[1]
    set -l seen
    while read -l line
        set -l name (string split -m 1 = -- $line)[1]
        set -l spelled $name
        string match -q '*_*' -- $typed; and set spelled (string replace -a - _ -- $name)
        string match -q '*-*' -- $typed; and set spelled (string replace -a _ - -- $name)
        if string match -q '*=*' -- $item
            test "$spelled" = "$typed"; or continue
            set -l value (string replace -r '^[^=]*=?' '' -- $line)
            if string match -qr '^<.*(FILE|PATH)>$' -- $value
                set -l path (string split -m 1 = -- $item)[2]
                printf '%s\n' "$before"$typed=(__fish_complete_path $path | string replace -r '\t.*' '')
            else if string match -q '*=*' -- $line; and not string match -q '<*' -- $value
                printf '%s\n' "$before"$typed=$value
            end
        else if not contains -- $spelled $seen
            set -a seen $spelled
            # One that the list has already is not offered again.
            string match -qr '(^|,)'(string escape --style=regex -- $spelled)'[,=]' -- "$before"; and continue
            string match -q '*=*' -- $line; and set spelled $spelled=
            printf '%s\n' "$before"$spelled
        end
    end
end

# How many operands stand before the current token; $argv are flags that take the next word.
function __qcow2_passed
    set -l passed 0
    set -l skip 1 # the program
    test (commandline -opc)[1] = qcow2ctl; and set skip 2 # and its command
    for word in (commandline -opc)
        if test $skip -gt 0
            set skip (math $skip - 1)
        else if contains -- $word $argv
            set skip 1
        else if not string match -q -- '-*' $word
            set passed (math $passed + 1)
        end
    end
    echo $passed
end

# Whether the operand that the current token is has the name $argv[2] in the line that begins with
# Usage, $argv[1]. The others are flags that take the next word.
function __qcow2_operand_is
    set -l operands
    for word in (string split -n ' ' -- $argv[1])
        set word (string replace -ra '[^A-Z,a-z]' '' -- $word)
        string match -qr '^[A-Z]+$' -- $word; and test $word != OPTIONS; and set -a operands $word
    end
    set -l passed (math (__qcow2_passed $argv[3..]) + 1)
    test $passed -le (count $operands); or return 1
    string match -qr -- "^($argv[2])\$" $operands[$passed]
end

# Files that look like images, and directories; all files where there is neither.
function __qcow2_images
    set -l found (__fish_complete_path (commandline -ct))
    set -l images (string match -ri '^[^\t]*(?:/|\.(?:qcow2|qcow|img|raw))(?:\t.*)?$' -- $found)
    test (count $images) -gt 0; and printf '%s\n' $images; or printf '%s\n' $found
end

# Completions of the program $argv[1] where the condition $argv[2] is true, whose list is what the
# command $argv[3] prints; $argv[4] is the line that begins with Usage, the others are the lines of the
# flags.
function __qcow2_complete
    set -l lines $argv[5..]
    set -l flags
    set -l next
    for line in $lines
        set -l flag (string split -m 1 = -- $line)[1]
        contains -- $flag $flags; or set -a flags $flag
    end
    for flag in $flags
        set -l kind -l (string replace -r '^--' '' -- $flag)
        string match -qr '^-[^-]$' -- $flag; and set kind -s (string sub -s 2 -- $flag)
        set -l values (string match -- "$flag=*" $lines | string replace -r '^[^=]*=' '')
        if test (count $values) -eq 0
            complete -c $argv[1] -n $argv[2] $kind -f
            continue
        end
        # Where it can stand alone a value needs its =.
        contains -- $flag $lines; or set -a next $flag
        switch $values[1]
            case '<LIST>'
                complete -c $argv[1] -n $argv[2] $kind -x -a "($argv[3] 2>/dev/null | __qcow2_list)"
            case '<*FILE>' '<*PATH>'
                complete -c $argv[1] -n $argv[2] $kind -r -F
            case '<*'
                complete -c $argv[1] -n $argv[2] $kind -x
            case '*'
                if contains -- $flag $lines
                    complete -c $argv[1] -n $argv[2] $kind -f
                else
                    complete -c $argv[1] -n $argv[2] $kind -x -a "$values"
                end
        end
    end
    set -l operand "__qcow2_operand_is "(string escape -- $argv[4])
    complete -c $argv[1] -n "$argv[2]; and $operand IMAGE $next" -f -a '(__qcow2_images)'
    complete -c $argv[1] -n "$argv[2]; and $operand '.*FILE|.*PATH|MOUNTPOINT' $next" -F
end

function __qcow2_load
    set -l names (qcow2ctl --help=names 2>/dev/null)
    complete -c qcow2ctl -f
    complete -c qcow2fs -f
    for name in $names
        if string match -q -- '--*' $name
            complete -c qcow2ctl -n '__fish_is_first_token' -l (string sub -s 3 -- $name)
        else if string match -q -- '-*' $name
            complete -c qcow2ctl -n '__fish_is_first_token' -s (string sub -s 2 -- $name)
        else
            complete -c qcow2ctl -n '__fish_is_first_token' -a $name
            __qcow2_complete qcow2ctl "test (commandline -opc)[2] = $name 2>/dev/null" \
                "qcow2ctl $name --help=values" (qcow2ctl $name --help 2>/dev/null)[1] \
                (qcow2ctl $name --help=names 2>/dev/null)
        end
    end
    # The flags of qcow2fs are the lines of its --help that begin with one.
    set -l help (qcow2fs --help 2>/dev/null)
    set -l flags
    for line in (string match -r '^  -.*' -- $help)
        set -l fields (string split -n ' ' -- $line)
        if string match -q -- '-*' $fields[2]
            set -a flags (string replace , '' -- $fields[1]) $fields[2]
        else if string match -qr '^[A-Z]' -- $fields[2]
            set -a flags "$fields[1]=<LIST>"
        else
            set -a flags $fields[1]
        end
    end
    test (count $help) -eq 0; or __qcow2_complete qcow2fs true 'qcow2fs --help=names' $help[1] $flags
end

__qcow2_load
